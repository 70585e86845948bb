"""The command line: argparse, and the only print."""
