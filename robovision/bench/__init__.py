"""Measurements that print themselves: what `robovision bench` runs, ours beside what a user would pick instead."""
