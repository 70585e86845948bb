"""docker, nerdctl and podman: the images that they hold."""
