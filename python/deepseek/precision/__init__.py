"""Precision per operator: plans, how they are searched, explained and measured (`deepseek precision`)."""
