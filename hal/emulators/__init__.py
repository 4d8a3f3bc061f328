"""Robots that are not there, down to the bytes on their wire: what a driver talks to where no hardware is.

An emulator speaks the robot's own protocol and has a MuJoCo arm behind it, so that the driver, and everything above it,
runs unchanged.
"""
