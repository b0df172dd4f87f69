"""Requests made from the document by schemathesis: no 500, and no answer that the document does not know.

python benchmarks/serve_fuzz.py --requests 10000      # the long run
"""

from benchmark_module import benchmark_module


def test_requests_made_from_the_document(server):
    with benchmark_module("serve_fuzz") as serve_fuzz:
        found = serve_fuzz.run(server.url, examples=1, phases="fuzzing,stateful")
    assert found["status"] == 0, found["report"]
    assert found["requests"] > 15
