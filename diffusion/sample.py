"""Samples images from a model and prints the share of each digit."""

from fdpo.programs.diffusion.sample import main

if __name__ == "__main__":
    main()
