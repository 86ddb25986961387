"""What a server tells Prometheus: counts and times, nothing of what was asked."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "medgemma_requests", "Requests that were answered or refused", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "medgemma_request_seconds", "From request to last byte", ("path",), buckets=SECONDS, registry=self.registry
        )
        self.first_byte_seconds = Histogram(
            "medgemma_first_byte_seconds",
            "From request to first byte",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter(
            "medgemma_prompt_tokens", "Tokens of prompts, pictures included", registry=self.registry
        )
        self.generated_tokens = Counter("medgemma_generated_tokens", "Tokens of answers", registry=self.registry)
        self.open = Gauge("medgemma_requests_open", "Requests being read or answered", registry=self.registry)

    def tokens(self, prompt: int, generated: int) -> None:
        """Count tokens."""
        self.prompt_tokens.inc(prompt)
        self.generated_tokens.inc(generated)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
