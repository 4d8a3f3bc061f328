"""`robotlearn doctor`: what of this machine and this installation works, and what to do about the rest.

Nothing is imported here that may be broken: what has to be tried is tried by child processes.
"""
