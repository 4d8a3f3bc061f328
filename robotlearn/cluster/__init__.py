"""Places and restarts the processes of a run on a Ray cluster. Ray is the control plane only: data go over ZeroMQ."""
