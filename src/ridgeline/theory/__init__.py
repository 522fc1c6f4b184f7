"""What every system must be proven to do, measured on the shipped functions: the command `ridgeline verify`."""
