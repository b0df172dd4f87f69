"""User studies: pairs of clips for people to compare in a browser, their answers, and the report.

    study = create_study(sources, prompts, Path("study"), DesignOptions())       # create.py, design.py
    StudyStore.open(Path("study"))                        # store.py: who rates what next, and every answer
    analyse(study, answers, raters)                       # analysis.py: shares, intervals, tests; report.py

The protocol is written into `study.json` before the first answer and never changes after it. A room above
`server/`, of which `app.py` takes the middleware.
"""
