"""AWS Lambda: API Gateway (HTTP or REST API), function URLs and load balancers call `handler`."""

from apig_wsgi import make_lambda_handler

from app import create_app
from web.metrics import log_requests

log_requests()
handler = make_lambda_handler(create_app(), binary_support=True)
