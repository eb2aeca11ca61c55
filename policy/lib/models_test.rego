package postern.lib.models_test

import data.postern.lib.models

tables := {
	"tiers": {"gpt-4": "premium", "gpt-4o-mini": "standard"},
	"categories": {
		"general": {},
		"code": {"roles": ["developer", "lead"]},
		"medical": {"permission": "prompts.medical", "scopes": ["health:read"]},
	},
}

asks(model, over) := object.union(
	{
		"principal": {"id": "bot", "kind": "agent", "roles": ["assistant"], "scopes": ["model:tier:standard"]},
		"target": {"protocol": "openai", "model": model, "category": "general"},
	},
	over,
)

decides(question) := d if d := models.decision with input as question with data.models as tables

# A-01 A-19
test_a_tier_needs_its_scope if {
	decides(asks("gpt-4o-mini", {})).allow
	answer := decides(asks("gpt-4", {}))
	not answer.allow
	answer.missing_scopes == {"model:tier:premium"}
	decides(asks("gpt-4", {"principal": {"scopes": ["model:tier:premium"]}})).allow
}

# A-01
test_an_unknown_or_renamed_model_is_nobodys if {
	every model in ["gpt-5", "GPT-4o-mini", "gpt-4o-mini ", "gpt-4o", "openai/gpt-4o-mini", "gpt-4o-mini-2026", "*"] {
		answer := decides(asks(model, {"principal": {"scopes": ["model:tier:standard", "model:tier:premium", "model:tier:"]}}))
		not answer.allow
		answer.reason == "model_denied"
	}
}

# A-01
test_the_tiers_of_the_configuration if {
	question := asks("local-7b", {"target": {"tier": "standard"}})
	models.decision.allow with input as question with data.models as {}
	answer := models.decision with input as asks("local-7b", {}) with data.models as {}
	answer.reason == "model_denied"
	not answer.allow

	# A table here counts alone.
	decides(question).reason == "model_denied"
	models.decision.reason == "model_denied" with input as question with data.models as {"tiers": {}}
}

# A-04: category × role
test_categories_by_role if {
	matrix := {
		"general": {"assistant": true, "developer": true, "lead": true},
		"code": {"assistant": false, "developer": true, "lead": true},
	}
	every category, roles in matrix {
		every role, may in roles {
			answer := decides(asks("gpt-4o-mini", {"principal": {"roles": [role]}, "target": {"category": category}}))
			answer.allow == may
		}
	}
}

# A-04
test_unknown_categories_are_denied if {
	every category in ["", "General", "weapons", null, 7, ["general"]] {
		answer := decides(asks("gpt-4o-mini", {"target": {"category": category}}))
		not answer.allow
		answer.reason == "category_denied"
	}
	unclassified := json.patch(asks("gpt-4o-mini", {}), [{"op": "remove", "path": "/target/category"}])
	not decides(unclassified).allow
	decides(unclassified).reason == "category_denied"
}

# A-04
test_a_category_by_permission if {
	question := asks("gpt-4o-mini", {"target": {"category": "medical"}})
	answer := decides(question)
	not answer.allow
	answer.missing_permissions == {"prompts.medical"}
	answer.missing_scopes == {"health:read"}
	doctor := object.union(question, {"principal": {"roles": ["doctor"], "scopes": ["model:tier:standard", "health:read"]}})
	roles := {"doctor": ["prompts.*"]}
	models.decision.allow with input as doctor with data.models as tables with data.roles as roles
	not decides(doctor).allow
	direct := object.union(doctor, {"principal": {"permissions": ["prompts.medical"]}})
	decides(direct).allow
}

# A-03: what a request may ask for
test_limits_by_tier if {
	limited := object.union(tables, {"limits": {"standard": {"max_tokens": 100}}})
	every case in [[{"max_tokens": 100}, true], [{"max_tokens": 101}, false], [{}, false], [{"max_tokens": 0}, true]] {
		answer := models.decision with input as asks("gpt-4o-mini", {"target": case[0]}) with data.models as limited
		answer.allow == case[1]
	}
}

# A-18
test_what_an_agent_is_told if {
	decides(asks("gpt-4", {})).message == "Agent bot lacks scope: model:tier:premium"
	decides(asks("gpt-4", {"principal": {"kind": "user"}})).message == ""
	decides(asks("gpt-5", {})).message == ""
}

test_other_requests_are_not_decided_here if {
	elsewhere := {"principal": {"roles": ["assistant"]}, "target": {"http": {"method": "GET", "path": "/v1/models"}, "protocol": "openai"}}
	not decides(elsewhere)
	not models.applies with input as elsewhere
}
