"""Schedules: functions from kernel to kernel that check their precondition, one file per group."""
