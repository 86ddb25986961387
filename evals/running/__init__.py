"""Running a task: options, checks of its items, a model or server asked, answers cached and recorded."""
