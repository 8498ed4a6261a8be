"""Makes preference data: prompts, completions of a model, scores, pairs by rank, train and test."""

try:
    from fdpo.programs.dataset.main import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
