"""From graphs to code: lowering, schedules, strategies, emitters."""
