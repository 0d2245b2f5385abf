"""What every assertion of this library raises."""


class Mismatch(AssertionError):
    """A result that is not what it should be, or further from it than is allowed."""
