package main

import (
	"fmt"
	"slices"
)

// dashboard is Grafana's, as far as it is used here. Field names are Grafana's.
type dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Version       int      `json:"version"`
	Editable      bool     `json:"editable"`
	GraphTooltip  int      `json:"graphTooltip"` // 1: the cursor is shared
	Refresh       string   `json:"refresh"`
	Time          struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"time"`
	Timezone    string `json:"timezone"`
	Links       []link `json:"links"`
	Annotations struct {
		List []annotation `json:"list"`
	} `json:"annotations"`
	Templating struct {
		List []variable `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`

	nextY int // where the next row of panels begins
}

type link struct {
	Title       string   `json:"title"`
	Type        string   `json:"type"`
	Icon        string   `json:"icon"`
	URL         string   `json:"url"`
	TargetBlank bool     `json:"targetBlank"`
	Tags        []string `json:"tags"`
	Tooltip     string   `json:"tooltip"`
	AsDropdown  bool     `json:"asDropdown"`
	KeepTime    bool     `json:"keepTime"`
	IncludeVars bool     `json:"includeVars"`
}

// page leads to a page of docs/.
func page(title, icon, to, tooltip string) link {
	return link{Title: title, Type: "link", Icon: icon, URL: "${docs}/" + to, TargetBlank: true, Tags: []string{}, Tooltip: tooltip}
}

// board leads to another dashboard, at the same time.
func board(title, uid, tooltip string) link {
	return link{Title: title, Type: "link", Icon: "dashboard", URL: "/d/" + uid, Tags: []string{}, Tooltip: tooltip, KeepTime: true}
}

// dataLink leads from a value somewhere.
type dataLink struct {
	Title       string `json:"title"`
	URL         string `json:"url"`
	TargetBlank bool   `json:"targetBlank"`
}

type annotation struct {
	Name       string `json:"name"`
	Datasource source `json:"datasource"`
	Enable     bool   `json:"enable"`
	Hide       bool   `json:"hide"`
	IconColor  string `json:"iconColor"`
	Expr       string `json:"expr"`
	Step       string `json:"step"`
	TitleFmt   string `json:"titleFormat"`
	TextFmt    string `json:"textFormat"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type variable struct {
	Name        string   `json:"name"`
	Label       string   `json:"label,omitempty"`
	Description string   `json:"description,omitempty"`
	Type        string   `json:"type"`
	Hide        int      `json:"hide"`
	Datasource  *source  `json:"datasource,omitempty"`
	Query       any      `json:"query"`
	Refresh     int      `json:"refresh,omitempty"`
	Sort        int      `json:"sort,omitempty"`
	IncludeAll  bool     `json:"includeAll"`
	AllValue    string   `json:"allValue,omitempty"`
	Multi       bool     `json:"multi"`
	Current     *option  `json:"current,omitempty"`
	Options     []option `json:"options,omitempty"`
	SkipURLSync bool     `json:"skipUrlSync"`
}

type option struct {
	Text     string `json:"text"`
	Value    string `json:"value"`
	Selected bool   `json:"selected"`
}

type panel struct {
	ID              int              `json:"id"`
	Type            string           `json:"type"`
	Title           string           `json:"title"`
	Description     string           `json:"description,omitempty"`
	GridPos         gridPos          `json:"gridPos"`
	Collapsed       *bool            `json:"collapsed,omitempty"` // of a row
	Panels          []panel          `json:"panels,omitempty"`
	Datasource      *source          `json:"datasource,omitempty"`
	Interval        string           `json:"interval,omitempty"` // the least step
	Targets         []target         `json:"targets,omitempty"`
	FieldConfig     *fieldConfig     `json:"fieldConfig,omitempty"`
	Options         any              `json:"options,omitempty"`
	Transformations []transformation `json:"transformations,omitempty"`
	Links           []link           `json:"links,omitempty"`
}

type gridPos struct {
	X int `json:"x"`
	Y int `json:"y"`
	W int `json:"w"`
	H int `json:"h"`
}

type target struct {
	RefID        string `json:"refId"`
	Datasource   source `json:"datasource"`
	Expr         string `json:"expr,omitempty"`
	LegendFormat string `json:"legendFormat,omitempty"`
	Instant      bool   `json:"instant,omitempty"`
	Range        bool   `json:"range,omitempty"`
	Format       string `json:"format,omitempty"`
	RawSQL       string `json:"rawSql,omitempty"`
	RawQuery     bool   `json:"rawQuery,omitempty"`
	EditorMode   string `json:"editorMode,omitempty"`
}

type fieldConfig struct {
	Defaults  field      `json:"defaults"`
	Overrides []override `json:"overrides"`
}

type field struct {
	Unit       string      `json:"unit,omitempty"`
	Decimals   *int        `json:"decimals,omitempty"`
	Min        *float64    `json:"min,omitempty"`
	Max        *float64    `json:"max,omitempty"`
	NoValue    string      `json:"noValue,omitempty"`
	Color      *color      `json:"color,omitempty"`
	Mappings   []mapping   `json:"mappings,omitempty"`
	Thresholds *thresholds `json:"thresholds,omitempty"`
	Custom     any         `json:"custom,omitempty"`
}

type color struct {
	Mode       string `json:"mode"`
	FixedColor string `json:"fixedColor,omitempty"`
}

type mapping struct {
	Type    string            `json:"type"`
	Options map[string]result `json:"options"`
}

type result struct {
	Text  string `json:"text"`
	Color string `json:"color,omitempty"`
	Index int    `json:"index"`
}

type thresholds struct {
	Mode  string `json:"mode"`
	Steps []step `json:"steps"`
}

type step struct {
	Value *float64 `json:"value"` // null is the lowest
	Color string   `json:"color"`
}

type override struct {
	Matcher    matcher    `json:"matcher"`
	Properties []property `json:"properties"`
}

type matcher struct {
	ID      string `json:"id"`
	Options string `json:"options"`
}

type property struct {
	ID    string `json:"id"`
	Value any    `json:"value"`
}

type transformation struct {
	ID      string         `json:"id"`
	Options map[string]any `json:"options"`
}

// row begins a new row of panels, with a headline.
func (d *dashboard) row(title string) {
	open := false
	d.Panels = append(d.Panels, panel{
		ID: len(d.Panels) + 1, Type: "row", Title: title, Collapsed: &open, GridPos: gridPos{Y: d.nextY, W: 24, H: 1},
	})
	d.nextY++
}

// line places panels side by side, by their widths; they share a height.
func (d *dashboard) line(height int, panels ...panel) {
	x := 0
	for _, p := range panels {
		p.ID = len(d.Panels) + 1
		p.GridPos = gridPos{X: x, Y: d.nextY, W: p.GridPos.W, H: height}
		x += p.GridPos.W
		d.Panels = append(d.Panels, p)
	}
	if x > 24 {
		panic(fmt.Sprintf("the line that begins with %q is %d wide", panels[0].Title, x))
	}
	d.nextY += height
}

// wide sets a panel's width, in 24ths.
func (p panel) wide(w int) panel { p.GridPos.W = w; return p }

// query adds a query, with the name that its series get.
func (p panel) query(expr, legend string) panel {
	t := target{RefID: string(rune('A' + len(p.Targets))), Datasource: *p.Datasource, Expr: expr, LegendFormat: legend, EditorMode: "code"}
	switch p.Type {
	case "timeseries":
		t.Range = true
	case "table":
		t.Instant, t.Format = true, "table"
	default:
		t.Instant = true
	}
	p.Targets = append(p.Targets, t)
	return p
}

// runbook links the panel to a page of docs/.
func (p panel) runbook(title, to string) panel {
	p.Links = append(p.Links, page(title, "doc", to, ""))
	return p
}

// bounds sets the axis or gauge.
func (p panel) bounds(low, high float64) panel {
	p.FieldConfig.Defaults.Min, p.FieldConfig.Defaults.Max = &low, &high
	return p
}

// from0 begins the axis at zero.
func (p panel) from0() panel {
	zero := 0.0
	p.FieldConfig.Defaults.Min = &zero
	return p
}

// whole shows no decimals.
func (p panel) whole() panel { p.FieldConfig.Defaults.Decimals = new(int); return p }

// say gives values words.
func (p panel) say(words map[string]result) panel {
	p.FieldConfig.Defaults.Mappings = append(p.FieldConfig.Defaults.Mappings, mapping{"value", words})
	return p
}

// limits colors values: the first color is of everything below the first limit.
func (p panel) limits(base string, rest ...any) panel {
	p.FieldConfig.Defaults.Thresholds = limitsOf(base, rest...)
	return p
}

func limitsOf(base string, rest ...any) *thresholds {
	t := &thresholds{Mode: "absolute", Steps: []step{{nil, base}}}
	for pair := range slices.Chunk(rest, 2) {
		at := pair[0].(float64)
		t.Steps = append(t.Steps, step{&at, pair[1].(string)})
	}
	return t
}

// series overrides what belongs to one series, by its name.
func (p panel) series(name string, properties ...property) panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, override{matcher{"byName", name}, properties})
	return p
}

func colored(c string) property { return property{"color", color{"fixed", c}} }

func dashed() property {
	return property{"custom.lineStyle", map[string]any{"fill": "dash", "dash": []int{8, 8}}}
}

// paint gives series their colors: name, color, name, color.
func (p panel) paint(pairs ...string) panel {
	for pair := range slices.Chunk(pairs, 2) {
		p = p.series(pair[0], colored(pair[1]))
	}
	return p
}

// graph draws over time.
func graph(from source, title, unit, description string) panel {
	return panel{
		Type: "timeseries", Title: title, Description: description, Datasource: &from,
		FieldConfig: &fieldConfig{Overrides: []override{}, Defaults: field{
			Unit: unit, Color: &color{Mode: "palette-classic"},
			Custom: map[string]any{
				"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 10,
				"showPoints": "never", "spanNulls": false, "axisPlacement": "auto",
				"stacking":        map[string]any{"mode": "none", "group": "A"},
				"thresholdsStyle": map[string]any{"mode": "off"},
			},
		}},
		Options: map[string]any{
			"legend":  map[string]any{"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []string{}},
			"tooltip": map[string]any{"mode": "multi", "sort": "desc"},
		},
	}
}

func (p panel) custom(key string, value any) panel {
	p.FieldConfig.Defaults.Custom.(map[string]any)[key] = value
	return p
}

// bars stacks the series.
func (p panel) bars() panel {
	return p.custom("drawStyle", "bars").custom("fillOpacity", 80).custom("lineWidth", 0).
		custom("stacking", map[string]any{"mode": "normal", "group": "A"}).from0()
}

// every sets the least step: where events are few, a finer one shows needles.
func (p panel) every(interval string) panel { p.Interval = interval; return p }

// marks draws its limits.
func (p panel) marks() panel {
	return p.custom("thresholdsStyle", map[string]any{"mode": "dashed"})
}

// beside puts the legend to the right, as a table.
func (p panel) beside(calcs ...string) panel {
	p.Options.(map[string]any)["legend"] = map[string]any{"displayMode": "table", "placement": "right", "showLegend": true, "calcs": calcs}
	return p
}

// number shows one value, colored by its limits.
func number(from source, title, unit, description string) panel {
	return panel{
		Type: "stat", Title: title, Description: description, Datasource: &from,
		FieldConfig: &fieldConfig{Overrides: []override{}, Defaults: field{Unit: unit, Color: &color{Mode: "thresholds"}, NoValue: "no data"}},
		Options: map[string]any{
			"reduceOptions": map[string]any{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
			"orientation":   "auto", "textMode": "auto", "colorMode": "background", "graphMode": "none",
			"justifyMode": "auto", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
		},
	}
}

// named shows the names of the series instead of their values.
func (p panel) named() panel {
	p.Options.(map[string]any)["textMode"] = "name"
	return p
}

// list is a table.
func list(from source, title, unit, description string) panel {
	return panel{
		Type: "table", Title: title, Description: description, Datasource: &from,
		FieldConfig: &fieldConfig{Overrides: []override{}, Defaults: field{
			Unit: unit, Custom: map[string]any{"align": "auto", "cellOptions": map[string]any{"type": "auto"}, "inspect": false},
		}},
		Options: map[string]any{
			"frameIndex": 0, "showHeader": true, "cellHeight": "sm", "sortBy": []any{},
			"footer": map[string]any{"show": false, "reducer": []string{"sum"}, "countRows": false},
		},
	}
}

func (p panel) sorted(column string) panel {
	p.Options.(map[string]any)["sortBy"] = []any{map[string]any{"displayName": column, "desc": true}}
	return p
}

// columns joins the queries of a table by their labels, leaves columns out, and
// names and orders the others: column, name, column, name.
func (p panel) columns(without []string, pairs ...string) panel {
	hidden, names, order := map[string]bool{"Time": true}, map[string]string{}, map[string]int{}
	for _, w := range without {
		hidden[w] = true
	}
	for pair := range slices.Chunk(pairs, 2) {
		names[pair[0]], order[pair[0]] = pair[1], len(order)
	}
	p.Transformations = append(p.Transformations,
		transformation{"merge", map[string]any{}},
		transformation{"organize", map[string]any{"excludeByName": hidden, "renameByName": names, "indexByName": order}})
	return p
}
