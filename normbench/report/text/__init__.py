"""The numbers in words and tables: findings, verdicts, what was equal, commands."""
