#!/usr/bin/env bash
# Makes .venv-ros: rclpy and message packages of ROS 2 Jazzy as wheels (unofficial, x86-64, about 0.4 GB), and this
# checkout's `robotlearn` with what emulate, robots, estop, station check and teleop need, as requirements.lock pins it:
# no torch. `make test-ros` calls it. It is an environment of its own because the wheels start every Python anew to set
# its library path. Who has ROS installed needs none of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv-ros python=.venv-ros/bin/python
readonly packages=('ros-jazzy-rclpy[fastrtps]==7.1.6' ros-jazzy-sensor-msgs==5.3.6 ros-jazzy-std-msgs==5.3.6
    ros-jazzy-trajectory-msgs==5.3.6)
readonly ours=(cyclonedds gymnasium mujoco numpy pillow pydantic pyserial pyyaml rich typer pytest pytest-timeout)

fail() {
    echo "setup_ros: $*" >&2
    exit 1
}

[ -x .venv/bin/uv ] || fail "needs .venv: run 'make venv' first"
[ "$(uname -sm)" = 'Linux x86_64' ] || fail "there are wheels of rclpy for Linux on x86-64 only, this is $(uname -sm)"
[ -x $python ] || .venv/bin/uv venv --quiet --python .venv/bin/python $venv || fail "can't make $venv"
.venv/bin/uv pip install --quiet --compile-bytecode --python $python --constraints requirements.lock \
    "${packages[@]}" "${ours[@]}" ||
    fail "the packages can't be installed (no network?)"
.venv/bin/uv pip install --quiet --python $python --build-constraints requirements.lock --no-deps --editable . ||
    fail "robotlearn can't be installed into $venv"
unset PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
$python -c 'import rclpy, sensor_msgs.msg, std_msgs.msg, trajectory_msgs.msg' || fail "rclpy doesn't start in $venv"
$venv/bin/robotlearn --version >/dev/null || fail "robotlearn doesn't start in $venv"
echo "setup_ros: $venv is ready"
