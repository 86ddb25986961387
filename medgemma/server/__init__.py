"""An OpenAI-compatible server that speaks DICOM; the extra `serve`."""
