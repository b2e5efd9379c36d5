"""The system: files, locks, memory, processes and logs; nothing of this field."""
