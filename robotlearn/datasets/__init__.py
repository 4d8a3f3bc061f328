"""Recorded episodes in the formats of others: LeRobot datasets both ways, ROS 2 bags, and labels beside the data."""
