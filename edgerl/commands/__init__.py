"""What a command does where it takes several packages: a function with its name and options, which prints nothing."""
