"""Acting on the device: the policy, its ONNX file, the control loop and the robot."""
