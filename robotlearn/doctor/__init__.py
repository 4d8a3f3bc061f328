"""`robotlearn doctor`: what of this machine and this installation works, and what to do about the rest.

Needs the standard library only, so that it can say what is missing; rich draws the table where it is there. Where the
command line itself does not start: `python -m robotlearn.doctor`.
"""
