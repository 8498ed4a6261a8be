"""Compares two text-to-image models: images from the same noise, win rates of scorers."""

try:
    from fdpo.programs.diffusion.compare import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
