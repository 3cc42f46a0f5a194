"""Pods: what a Kubernetes cluster is told of a stage's work, and what it says of how a pod ended."""
