"""Compares two text-to-image models: images from the same noise, win rates of scorers."""

from fdpo.programs.diffusion.compare import main

if __name__ == "__main__":
    main()
