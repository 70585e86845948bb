"""What the operating system gives: files, locks, processes, threads."""
