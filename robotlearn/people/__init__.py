"""People at a robot: devices, what becomes of their hands' motions, teleoperation, recording, intervention."""
