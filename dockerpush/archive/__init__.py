"""What is on disk: tar files and directories that hold images."""
