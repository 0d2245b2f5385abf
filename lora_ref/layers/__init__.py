"""Layers: functions (inputs) -> (value, backward), with no parameters of their own."""
