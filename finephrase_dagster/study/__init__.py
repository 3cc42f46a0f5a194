"""What is computed: the study's specs, its file, and the identity of everything it produces."""
