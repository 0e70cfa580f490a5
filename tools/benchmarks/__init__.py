"""What things cost on this machine: one module for each subcommand of `bevel bench`."""
