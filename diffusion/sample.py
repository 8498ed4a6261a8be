"""Samples images from a model and prints the share of each digit."""

try:
    from fdpo.programs.diffusion.sample import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
