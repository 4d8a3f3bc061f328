"""LeRobot's policies that are learnt by imitation alone."""
