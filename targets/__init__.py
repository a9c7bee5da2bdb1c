"""The machines that code is made for, and what ships with it."""
