"""One module a contender: its best durable setting, and why."""
