"""What runs on a robot workstation: batch edges, and stations of paced robots."""
