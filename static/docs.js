const docs = document.querySelector("#docs");
SwaggerUIBundle({ domNode: docs, url: docs.dataset.url, defaultModelsExpandDepth: 0, validatorUrl: null });
