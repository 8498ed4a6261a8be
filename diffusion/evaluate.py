"""Compares an image model with its reference: shares of digits, variety, path KL."""

try:
    from fdpo.programs.diffusion.evaluate import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
