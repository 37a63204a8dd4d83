package api

import (
	"github.com/gin-gonic/gin"

	"ringback/db"
)

func (a *API) list(c *gin.Context, filter db.Filter) (db.Page, error) {
	ctx, cancel := databaseContext(c.Request.Context())
	defer cancel()
	return db.ListRequests(ctx, a.Pool, filter)
}
