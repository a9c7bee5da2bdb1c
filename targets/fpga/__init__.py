"""FPGA boards: an HLS C++ project of streaming processes on fixed-point numbers, checked by a C simulation."""
