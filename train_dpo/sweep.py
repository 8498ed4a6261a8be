"""Sweep of text training over losses, betas and seeds on the same pairs, with one table."""

try:
    from fdpo.programs.train_dpo.sweep import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
