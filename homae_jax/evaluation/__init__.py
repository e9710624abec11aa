"""Evaluators, official submissions and result tables."""
