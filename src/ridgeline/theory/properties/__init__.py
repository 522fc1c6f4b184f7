"""The properties, by what they are about. A file beside this one is found by being there."""
