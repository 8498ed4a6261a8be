"""Compares an image model with its reference: shares of digits, variety, path KL."""

from fdpo.programs.diffusion.evaluate import main

if __name__ == "__main__":
    main()
