"""LeRobot's vision-language-action models as policies."""
