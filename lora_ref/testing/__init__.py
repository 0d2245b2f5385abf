"""The public test kit: gradient check, conformance checks, example inputs, tolerances."""
