"""The Flower ClientApp: one hospital. The same app answers in process, on Ray actors and on a real
SuperNode."""

from __future__ import annotations

from flwr.clientapp import ClientApp

from fedrobust.runtime.client import handlers, secure_aggregation, site_errors

app = ClientApp(mods=[handlers.in_time, site_errors.with_fixed_texts])
# under privacy=secure_aggregation, before and after training
for _stage, _answer in secure_aggregation.STAGES.items():
    app.train(_stage)(_answer)
app.train()(handlers.train)
app.evaluate()(handlers.evaluate)
app.query()(handlers.report_site_info)
