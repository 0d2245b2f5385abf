"""What all reports share: the frame and style of an HTML page, and text that is safe to show."""
