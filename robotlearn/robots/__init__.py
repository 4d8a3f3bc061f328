"""The robots of this machine: what is attached, which run and how they are, which e-stops are latched."""
