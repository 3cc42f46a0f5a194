"""Pods: how large a stage's Kubernetes pod is, where it runs, and why it failed."""
